"""Text generator and training scripts of the two sample models that ship with Segue."""
