import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsExchange;
import com.sun.net.httpserver.HttpsParameters;
import com.sun.net.httpserver.HttpsServer;
import java.io.FileInputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Executors;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;

/**
 * Speaks mTLS with nothing but the JDK: JSSE, with its own key from a PKCS#12 file.
 *
 * <p>With --listen it serves until it is killed: its first line is its port, and it answers with
 * the SPIFFE ID of whoever asks. With --connect it asks a URL once and prints the answer.
 */
public class Peer {
    private static final char[] PASSWORD = "interop".toCharArray();
    private static final int URI_NAME = 6; // GeneralName, RFC 5280 §4.2.1.6

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            options.put(arguments[i], arguments[i + 1]);
        }
        SSLContext tls = context(options.get("--keystore"), options.get("--bundle"));
        if (options.containsKey("--listen")) {
            serve(options.get("--listen"), tls);
        } else {
            ask(options.get("--connect"), tls);
        }
    }

    /** Trusts the bundle alone. */
    private static SSLContext context(String keystore, String bundle) throws Exception {
        KeyStore own = KeyStore.getInstance("PKCS12");
        try (var file = new FileInputStream(keystore)) {
            own.load(file, PASSWORD);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(own, PASSWORD);

        KeyStore anchors = KeyStore.getInstance("PKCS12");
        anchors.load(null, null);
        try (var file = new FileInputStream(bundle)) {
            for (var anchor : CertificateFactory.getInstance("X.509").generateCertificates(file)) {
                anchors.setCertificateEntry("anchor " + anchors.size(), anchor);
            }
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(anchors);

        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    private static void serve(String address, SSLContext tls) throws Exception {
        String[] parts = address.split(":");
        var socket = new InetSocketAddress(parts[0], Integer.parseInt(parts[1]));
        HttpsServer server = HttpsServer.create(socket, 0);
        server.setHttpsConfigurator(new HttpsConfigurator(tls) {
            @Override
            public void configure(HttpsParameters parameters) {
                SSLParameters wanted = getSSLContext().getDefaultSSLParameters();
                wanted.setNeedClientAuth(true);
                parameters.setSSLParameters(wanted);
            }
        });
        server.createContext("/", exchange -> {
            try (exchange) {
                byte[] body = spiffeId((HttpsExchange) exchange).getBytes();
                exchange.sendResponseHeaders(200, body.length);
                exchange.getResponseBody().write(body);
            }
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
        System.out.println(server.getAddress().getPort());
    }

    private static String spiffeId(HttpsExchange exchange) {
        try {
            var peer = (X509Certificate) exchange.getSSLSession().getPeerCertificates()[0];
            return peer.getSubjectAlternativeNames().stream()
                    .filter(name -> name.get(0).equals(URI_NAME))
                    .map(name -> (String) name.get(1))
                    .findFirst()
                    .orElseThrow();
        } catch (Exception failure) {
            throw new IllegalStateException(failure);
        }
    }

    private static void ask(String url, SSLContext tls) throws Exception {
        Duration patience = Duration.ofSeconds(100);
        HttpClient client = HttpClient.newBuilder().sslContext(tls).connectTimeout(patience).build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).timeout(patience).build();
        var answer = client.send(request, BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new IllegalStateException("HTTP " + answer.statusCode());
        }
        System.out.println(answer.body());
    }
}
