# Sourced first by the scripts that install: where --help is among the arguments, the comment at the head of the script is
# printed, and nothing is installed or run.
for argument in "$@"; do
  case "$argument" in
    --help | -h) sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0"; exit 0 ;;
  esac
done
