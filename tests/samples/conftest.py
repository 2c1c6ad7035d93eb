import sys
from pathlib import Path

# `training` lies beside `src` and is not part of the package.
sys.path.insert(0, str(Path(__file__).parents[2]))
