"""Speech becomes text: the recording, the model, and the text that is kept."""

import os

# The threads of NumPy's library wait for each other busily: they took five times the CPU of the work itself, which is
# small. It reads this when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
