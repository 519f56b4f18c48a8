"""The families of Qwen-VL in one table, and what is done to a model: load, freeze, LoRA, merge."""
