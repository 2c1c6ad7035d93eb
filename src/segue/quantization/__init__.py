"""Weights in few bits: rounded when they load (``methods``), or read from quantized checkpoints (``formats``)."""
