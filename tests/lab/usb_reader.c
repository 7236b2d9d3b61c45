/* A USB reader that can be unplugged: vpcd's driver for one slot, and the libudev that tells pcscd when it comes and goes.
 *
 * Compiled by usb_reader.py, linked in front of libifdvpcd, preloaded into pcscd, and its driver for the device below.
 * The reader is there when pcscd starts. Each '-' written to /run/pcscd/usb unplugs it, each '+' plugs it in again.
 * A card that dials again (dial_in.py --stay) is in before pcscd first looks, as it is in a YubiKey.
 * Functions of libudev that pcscd calls: hotplug_libudev.c of pcsc-lite 1.9.9 to 2.3. */
#define _GNU_SOURCE
#include <PCSC/ifdhandler.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char events[] = "/run/pcscd/usb";

/* A device is its action: '+' or '-'. All other objects have nothing in them. */
static char nothing[] = "", added[] = "+", removed[] = "-";

void *udev_new(void) { return nothing; }
void *udev_unref(void *udev) { return 0; }
void *udev_enumerate_new(void *udev) { return nothing; }
int udev_enumerate_add_match_subsystem(void *enumerate, const char *subsystem) { return 0; }
int udev_enumerate_scan_devices(void *enumerate) { return 0; }
void *udev_enumerate_get_list_entry(void *enumerate) { return nothing; }
void *udev_enumerate_unref(void *enumerate) { return 0; }
void *udev_list_entry_get_next(void *entry) { return 0; }
const char *udev_list_entry_get_name(void *entry) { return nothing; }

void *udev_monitor_new_from_netlink(void *udev, const char *name) { return nothing; }
int udev_monitor_filter_add_match_subsystem_devtype(void *monitor, const char *subsystem, const char *type) { return 0; }
int udev_monitor_enable_receiving(void *monitor) { return mkfifo(events, 0600); }
int udev_monitor_get_fd(void *monitor)
{
	static int fifo = -1;
	return fifo < 0 ? fifo = open(events, O_RDWR | O_CLOEXEC) : fifo;
}
void *udev_monitor_receive_device(void *monitor)
{
	char action = 0;
	return read(udev_monitor_get_fd(monitor), &action, 1) != 1 ? 0 : action == '-' ? removed : added;
}

void *udev_device_new_from_syspath(void *udev, const char *path) { return added; }
void *udev_device_unref(void *device) { return 0; }
void *udev_device_get_parent_with_subsystem_devtype(void *device, const char *subsystem, const char *type) { return device; }
const char *udev_device_get_action(void *device) { return device == removed ? "remove" : "add"; }
const char *udev_device_get_devnode(void *device) { return "/dev/bus/usb/001/002"; }
const char *udev_device_get_sysname(void *device) { return "1-1:1.0"; }
const char *udev_device_get_sysattr_value(void *device, const char *name)
{
	return !strcmp(name, "idVendor") ? "1050" : !strcmp(name, "idProduct") ? "0407" : 0;
}

#define BEHIND(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

RESPONSECODE IFDHGetCapabilities(DWORD lun, DWORD tag, PDWORD length, PUCHAR value)
{
	if (tag != TAG_IFD_SLOTS_NUMBER)
		return BEHIND(IFDHGetCapabilities)(lun, tag, length, value);
	*length = 1, *value = 1; /* vpcd has two */
	return IFD_SUCCESS;
}

RESPONSECODE IFDHCreateChannelByName(DWORD lun, LPSTR name)
{
	static int before;
	char port[] = "/dev/null:0x8C7B"; /* vpcd's way to say where cards dial in */
	RESPONSECODE result = BEHIND(IFDHCreateChannelByName)(lun, port);
	if (before++)
		for (int tries = 0; tries < 500 && BEHIND(IFDHICCPresence)(lun) != IFD_ICC_PRESENT; tries++)
			usleep(1000);
	return result;
}
