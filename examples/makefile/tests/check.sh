#!/bin/sh
# Usage: check.sh PROGRAM
set -eu
program=$1

expect() {
	if [ "$1" != "$2" ]; then
		echo "check: expected '$1', got '$2'" >&2
		exit 1
	fi
}

expect 'Grüße, world!' "$("$program")"
expect 'Grüße, 世界!' "$("$program" 世界)"
echo 'check: all well'
