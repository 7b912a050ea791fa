"""`anabranch bench`: measures servers with the wire's own client."""
