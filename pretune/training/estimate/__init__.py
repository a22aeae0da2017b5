"""What training will cost, and whether it fits into memory."""
