"""``python -m vision_infer`` is the command ``vision-infer``."""

from vision_infer.cli.main import main

main()
