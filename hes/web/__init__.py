"""The HTTP side: takes emails in, and tells what became of them."""
