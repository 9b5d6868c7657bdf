"""A shop's help desk: orders to look up, tickets to open, questions that are asked often."""
