"""What `pretune init` proposes for data of one's own: a look at them, a rehearsal, a whole params.yaml."""
