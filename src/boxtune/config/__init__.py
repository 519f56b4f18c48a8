"""What a run can be told: one tree of settings, how files and command-line values fill it, how the parts must fit."""
