"""What is done to rows before they are kept, each decision with its reason."""
