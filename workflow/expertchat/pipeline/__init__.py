"""What to make, under which id, where it lies, and how one job makes it."""
