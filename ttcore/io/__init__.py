"""Files: trains in ``.tt.npz``, and the plain ``.npy`` and ``.npz`` arrays they are made from."""
