"""What comes in: bodies, forms, headers, ids and names, read and checked."""
