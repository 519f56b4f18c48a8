"""Pages to look at: one HTML file each, with nothing to fetch. `report` and `inspection.dataset_page` fill them."""
