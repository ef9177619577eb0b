"""The rows of the tables: each module measures some of them."""
