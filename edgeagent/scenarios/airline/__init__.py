"""An airline's service desk: users, flights by date, reservations, and the tools that act."""
