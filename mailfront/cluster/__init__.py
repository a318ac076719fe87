"""Where does a mailbox live, and is that node well? Hashing (pure), the map, node states, the keeper's registry."""
