"""What a run came to, for people: an HTML page and console tables, from `Record`s alone; imports no torch."""

from tersenet.report.page import render, write_page
from tersenet.report.records import load_record
from tersenet.report.tables import print_ledger, print_summary

__all__ = ["load_record", "print_ledger", "print_summary", "render", "write_page"]
