"""From the codes of a tensor back to its bytes: streams, planes, tensors, whole or in blocks."""
