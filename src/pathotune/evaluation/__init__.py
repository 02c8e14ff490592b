"""How good a tuning is on tiles it was not made from."""
