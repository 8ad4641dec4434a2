"""Networks that are quantized already: their integers are rounded anew, all else stays as it is."""
