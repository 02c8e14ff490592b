"""PathoTune: task visual, task textual and instance visual prompts on a frozen backbone, with a linear head."""
