"""Steps that every request takes before its route and after it."""
