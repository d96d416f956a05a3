"""The tables of :mod:`kafnets.registry`, or what its entries are made with; nothing else imports them."""
