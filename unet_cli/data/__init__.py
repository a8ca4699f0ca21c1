"""The data side: layout of folders, examination, samples for the network, file formats, label maps."""
