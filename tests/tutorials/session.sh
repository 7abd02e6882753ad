# Runs /steps/1.cmd, /steps/2.cmd, ... one after the other in this shell, as they are typed: what one
# sets, the next has. Leaves N.out (both outputs, as on a terminal), N.code, and in `left` what a
# reader would have left behind at the end.
cd /root

loops() { losetup --list --noheadings --output NAME,BACK-FILE | grep -F ' /mnt/view' | sort; }
loops >/steps/loops.before

code=0
for ((step = 1; step <= $(</steps/count); step++)); do
    [[ -e /steps/$step.cmd ]] || continue
    (exit "$code")
    . "/steps/$step.cmd" >"/steps/$step.out" 2>&1 </dev/null
    code=$?
    echo "$code" >"/steps/$step.code"
done

# Mounts and loop devices go a moment after the command that gave them up.
left() {
    awk '$5 ~ "^/mnt/" { print "mounted: " $5 }' /proc/self/mountinfo
    loops | comm -13 /steps/loops.before - | sed 's/^/loop device: /'
    for process in /proc/[0-9]*; do
        [[ $(readlink "$process/exe") != /opt/bin/qcowfs ]] || echo "running: qcowfs"
    done
}
for ((tries = 0; tries < 50; tries++)); do
    left >/steps/left 2>/dev/null
    [[ -s /steps/left ]] || break
    sleep 0.2
done
# A loop device outlives its namespace, and would keep the view alive.
awk '/^loop device: / { print $3 }' /steps/left | xargs -r losetup --detach
exit 0
