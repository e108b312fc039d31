"""A run on disk: a folder from which everything can be read again.

In: a training, finished or cut anywhere. Out: config, weights, predictions, metrics; what has changed since.
Promises: a file is there whole or not at all; a run that was cut goes on to the same result; a run is read by what it
stores and never by today's defaults; weights are read without running what is in them.
"""
