"""A real one-node Kubernetes cluster as a tree of plain processes: no Docker, no registry, nothing left behind.

Read the modules in this order: `layout` (where things are), `lifecycle` (what up and down do), `node` (what runs inside the namespaces),
`components` (the programs and their order). `README.md` has the commands.

It is for development, the demo and tests. It is not a way to run Veilpod for others: everybody with root on the machine is its admin.
"""
