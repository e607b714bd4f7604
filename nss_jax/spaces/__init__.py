"""What can be searched: spaces, their cost, and distributions over them."""
