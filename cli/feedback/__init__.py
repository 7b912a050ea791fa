"""`anabranch feedback`: outcomes out of files."""
