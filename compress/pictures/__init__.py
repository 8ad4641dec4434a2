"""Picture files to pixels: the one decoder of training, scoring, tiling, preparation, report and `krimp detect`."""
