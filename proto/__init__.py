"""Wire formats: the Open Inference Protocol, the anabranch.v1 services, and the tensor codec."""
