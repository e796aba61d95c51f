// Preloaded into a process: notes each name that it looks up and each connection that would leave
// the machine, in the file that NETWORK_SPY_LOG names, and lets none of them happen.

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

void note(const std::string& line) {
  const int file = open(std::getenv("NETWORK_SPY_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (file < 0 || write(file, (line + "\n").data(), line.size() + 1) < 0) std::abort();
  close(file);
}

template <typename Function>
Function* original(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

// Empty for a socket that stays on this machine.
std::string remote_address(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address->sa_family == AF_INET) {
    const in_addr& ip = reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
    const bool is_loopback = ntohl(ip.s_addr) >> 24 == 127;
    return is_loopback ? "" : inet_ntop(AF_INET, &ip, text, sizeof(text));
  }
  if (address->sa_family == AF_INET6) {
    const in6_addr& ip = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(&ip) ? "" : inet_ntop(AF_INET6, &ip, text, sizeof(text));
  }
  return "";
}

}  // namespace

extern "C" {

int getaddrinfo(const char* name, const char* service, const addrinfo* hints, addrinfo** found) {
  if (name == nullptr || (hints != nullptr && (hints->ai_flags & AI_NUMERICHOST) != 0)) {
    return original<decltype(getaddrinfo)>("getaddrinfo")(name, service, hints, found);
  }
  note(std::string("looked up ") + name);
  return EAI_FAIL;
}

hostent* gethostbyname(const char* name) {
  note(std::string("looked up ") + name);
  return nullptr;
}

int connect(int socket, const sockaddr* address, socklen_t size) {
  const std::string remote = remote_address(address);
  if (remote.empty()) return original<decltype(connect)>("connect")(socket, address, size);
  note("connected to " + remote);
  errno = ENETUNREACH;
  return -1;
}
}
