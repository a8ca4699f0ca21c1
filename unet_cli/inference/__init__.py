"""Images through the network: from files to masks, in batches and in bounded memory."""
