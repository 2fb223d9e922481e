"""Federated averaging of a logistic regression, over plain TCP on localhost. Knows nothing of Veilpod: no import, no key, no address."""
