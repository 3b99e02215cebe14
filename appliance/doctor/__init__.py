"""`appliance doctor`: is this machine ready to work, and if not, which command mends it."""
