"""Everything that people read: pages, reports, cards and the words in them. Pure: data goes in, text comes out."""
