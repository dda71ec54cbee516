"""Foreign counterparts: programs that speak the protocol with none of our code in them."""
