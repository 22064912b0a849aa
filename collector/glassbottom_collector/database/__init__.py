"""What the databases of a service say about an incident, read without touching the one that serves it.

Two planes. The data plane (schema, sizes, settings, rows) is read from a replica, never from a primary. The activity
plane (slow queries, locks, connections) exists only on the node that does the work: it is read there when the operator
names that node, in a few bounded reads of catalogs. Every value says which node it came from and what that node is.
"""
