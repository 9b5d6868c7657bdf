"""A restaurant guide that also takes reservations: the three tools of the TFT benchmark."""
