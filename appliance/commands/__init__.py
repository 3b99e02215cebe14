"""What the commands of the command line do, one file a verb or a group of verbs."""
