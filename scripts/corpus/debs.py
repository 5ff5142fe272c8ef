"""Reads files out of Debian packages, without installing or unpacking them.

Never touches the network: `setup-corpus` has downloaded the packages before.
"""

import re
import subprocess
import tarfile


def files(deb, wanted):
    """Yields (path, bytes) of the plain files in `deb` whose path matches the regular expression `wanted`."""
    match = re.compile(wanted).search
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as unpack:
        with tarfile.open(fileobj=unpack.stdout, mode="r|") as archive:
            for member in archive:
                path = member.name.removeprefix("./")
                if member.isfile() and match(path):
                    yield path, archive.extractfile(member).read()
        unpack.stdout.read()  # to the end, so that dpkg-deb meets no closed pipe
    if unpack.returncode != 0:
        raise SystemExit(f"setup-corpus: dpkg-deb cannot read {deb} (exit {unpack.returncode}); delete it and run again")
