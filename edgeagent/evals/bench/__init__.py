"""What a step of a recorded conversation costs, beside other ways of computing it."""
