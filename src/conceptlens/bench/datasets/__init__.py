"""Images with masks, one file per dataset."""
