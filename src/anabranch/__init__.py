"""Anabranch: split live inference traffic between variants of one model, and promote the best with evidence."""
