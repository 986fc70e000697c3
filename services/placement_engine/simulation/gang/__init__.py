"""Small scenarios of nodes, queues and jobs on a virtual clock."""
