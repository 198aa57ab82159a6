"""The console command `videomamba`: a short module for each of its commands, on the functions of the other folders."""
