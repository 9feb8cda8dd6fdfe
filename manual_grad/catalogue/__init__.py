"""What is known of each formula, one entry a formula."""
