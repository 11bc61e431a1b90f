"""The run file: one HDF5 file per run, the interface between the rooms."""
